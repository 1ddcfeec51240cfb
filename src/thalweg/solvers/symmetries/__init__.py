"""Changes of a network's point that leave its function as it is: where they apply, found in the network itself."""
