"""What methods are measured against, where no library is kept or light enough: host code, one module a task."""
