"""Every option of every command has an effect or is refused."""
