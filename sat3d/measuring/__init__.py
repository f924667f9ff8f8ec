"""The measurements behind ``sat3d evaluate`` and ``sat3d compare``, one kind in each file."""
