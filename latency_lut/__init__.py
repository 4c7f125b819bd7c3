"""How many milliseconds does each block of a network take on one device? Tables, and the measuring that fills them."""
