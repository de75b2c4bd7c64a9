"""From scores of single images to ranks, intervals and tests; published rows beside them."""
