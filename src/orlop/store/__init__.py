"""The use cases over tables and driver, and `Store`, the face of them. No environment, no printing."""
