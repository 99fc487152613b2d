"""Programs to copy and start from: each loads the dataset as its users do. Needs scripts/examples/requirements.txt."""
