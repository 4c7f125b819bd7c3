"""Training recipes that come with the product: how T, S and B were trained, as published and as released."""
