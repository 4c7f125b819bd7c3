"""How does mIoU grow with size? Imports the store, the front and trust, and nothing that shows."""
