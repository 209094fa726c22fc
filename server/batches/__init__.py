"""`/v1/batches`: files of requests that run on what capacity interactive requests leave."""
