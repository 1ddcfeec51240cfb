"""Changes of a network that leave its function as it is: where they apply, found in the network itself."""
