"""The mathematics of B-cos networks: units whose output is exactly W(x)x, and how to read W(x) off them."""
