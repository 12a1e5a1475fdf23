"""One agent on its host: sockets, threads, files."""
