# %% [markdown]
# # Glossary
