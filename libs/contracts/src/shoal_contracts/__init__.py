"""Messages, subjects and streams: all that two services agree on. Imports msgspec only."""
