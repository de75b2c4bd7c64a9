"""What encoded bytes are, and the parts of decoding that one format or one kind of sample needs."""
