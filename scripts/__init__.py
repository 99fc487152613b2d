"""The commands. This file is read before any of them imports pyarrow."""

import os

# Arrow's own allocator keeps what it has once had: with it a build takes 40 to 70 MB more, and no less time.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
