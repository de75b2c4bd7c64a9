"""The synthesis of pairs, and their verification."""
