"""The transport on ZeroMQ: the only code that imports zmq, but for one benchmark."""
