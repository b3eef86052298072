"""The commands of `sardonyx`, one subject a file; `runtime.cli` says what exists."""
