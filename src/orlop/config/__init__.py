"""Files and environment become options here, once; nothing below reads either."""
