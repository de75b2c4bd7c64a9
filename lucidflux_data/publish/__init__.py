"""What others get of a finished set: card, Croissant metadata, upload to the Hub."""
