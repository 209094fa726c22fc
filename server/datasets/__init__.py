"""Files of rows in any container, read one row at a time and written as the rows that are trained
on."""
