"""What the daemon shows of itself: metrics, health, and word to the service manager."""
