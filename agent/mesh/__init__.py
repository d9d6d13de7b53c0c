"""Who is told which pods to serve: the server of ZDS, the protocol of ztunnel.

wire and session are pure: packets, and what one proxy is told next. roster has every pod and owns its descriptor,
listener the socket's path, connection one proxy's socket, and server is what the rest of the agent calls.
"""
