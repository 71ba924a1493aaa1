"""The tables of this service and the SQL over them."""
