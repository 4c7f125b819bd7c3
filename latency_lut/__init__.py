"""How many milliseconds does each block of a network take on one device? Tables, and the measurement that fills them."""
