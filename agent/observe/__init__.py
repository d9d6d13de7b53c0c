"""What the daemon shows of itself: metrics, health, and word to the service manager."""

DEFAULT_LISTEN = "127.0.0.1:15042"
