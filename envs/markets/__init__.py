"""Markets, bargaining and routes."""
