"""Peer-to-peer decentralized training in which lying does not pay.

The code lies in the four folders at the top of the repository, one a layer; they are linked here,
so that `candor` is the only name that an installation adds.
"""

__version__ = "0.1.0"
