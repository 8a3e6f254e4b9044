"""What the seeds say of a claim: arms compared, statistics, the verdict, the picture."""
