"""IR + recipe -> plan -> bytes. Numbers, never files: what a file looks like is ``formats``' business."""
