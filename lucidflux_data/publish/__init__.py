"""A finished set told to others: card, Croissant metadata, upload to the Hub."""
