"""A model for many at a time: requests, the batch that they share, and the endpoint."""
