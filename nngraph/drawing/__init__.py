"""All figures; matplotlib is needed only here."""
