"""An exported model behind HTTP, and a client for it."""
