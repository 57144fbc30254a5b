"""HTTP/1.1, compiled: parser, bodies, responses, the connection loop. Knows nothing of WSGI."""
