"""Images from files, and views of them."""
