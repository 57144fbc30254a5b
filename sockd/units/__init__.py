"""systemd units and the nginx site, rendered from the configuration."""
