"""What this host is and offers: capabilities, limits, figures, and the doctor's report."""
