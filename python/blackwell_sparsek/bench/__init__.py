"""Cases (what is computed), roofline (how much work that is) and the runner behind `bsk bench`."""
