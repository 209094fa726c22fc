"""What every generating endpoint shares: running sequences on engines, and answering with them."""
