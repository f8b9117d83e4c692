"""The data that exists: data sets, manifests, the embedded photographs. No Paddle, no Prefect."""
