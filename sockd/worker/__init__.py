"""What runs beside the application: the fork server and the workers."""
