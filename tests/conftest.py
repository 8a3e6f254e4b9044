"""Every test process sees eight host devices, so that sharding is tested on any machine."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import settings

settings.register_profile("lemmata", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("lemmata")
