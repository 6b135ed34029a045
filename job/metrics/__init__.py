"""What masks and choices are measured by; knows nothing of specs, storage or logs."""
