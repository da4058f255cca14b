"""What people look at: the HTML report, the model card, the plot."""
