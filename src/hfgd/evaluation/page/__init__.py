"""Pages one can click: one self-contained HTML file, without a network or a server."""
