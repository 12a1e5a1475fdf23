"""A second implementation of docs/protocol.md, which shares no code with the project.

It is what the page is held to: whatever it needs is on the page, and where the two disagree the
page or the daemon is wrong. It speaks the honest protocol and checks what neighbours send. It
leaves out what only a fault needs: restarts, re-entry, disputes, payments, evidence of malice.
"""
