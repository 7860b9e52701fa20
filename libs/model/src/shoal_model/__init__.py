"""Domain rules of Kubernetes objects: normalising, quantities, labels."""
