"""Many processes: who they are (processes.py), how they start (launch.py), on what (device.py)."""
