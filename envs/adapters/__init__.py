"""Bridges to other libraries' environments; each module is importable only when its library is installed."""
