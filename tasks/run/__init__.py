"""How a stage runs: the contract, the store, shards, processes."""
