"""The master: one event loop that supervises and never imports the application."""
